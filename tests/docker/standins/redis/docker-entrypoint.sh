#!/bin/sh
# Gives the server its modules and opens it to the network of its container.
set -eu
if [ "$1" = redis-server ]; then
    shift
    set -- redis-server --protected-mode no \
        --loadmodule /usr/local/lib/redis/modules/redisearch.so "$@"
fi
exec "$@"
