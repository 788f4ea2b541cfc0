# One image for every role: `docker run IMAGE worker ingest`, `... topics`, `... status`.
ARG BASE=python:3.11.13-slim-bookworm
FROM ${BASE}

RUN useradd --uid 10001 --user-group --no-create-home visual-memory \
    && mkdir -p /var/lib/visual-memory/secrets /var/lib/visual-memory/models \
    && chown -R visual-memory:visual-memory /var/lib/visual-memory

WORKDIR /src
COPY pyproject.toml constraints.txt setup.py ./
# The dependencies alone first: they change less often than the code.
# TORCH_INDEX may name PyTorch's package index of builds without CUDA, most of the size.
ARG TORCH_INDEX=
RUN python3 -m venv /opt/visual-memory \
    && python3 -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > /tmp/dependencies.txt \
    && /opt/visual-memory/bin/pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} -c constraints.txt -r /tmp/dependencies.txt \
    && rm /tmp/dependencies.txt
COPY README.md LICENSE ./
COPY memory memory
COPY streams streams
RUN /opt/visual-memory/bin/pip install --no-cache-dir --no-deps .

ENV PATH=/opt/visual-memory/bin:$PATH \
    HF_HOME=/var/lib/visual-memory/models \
    PYTHONUNBUFFERED=1 \
    VISUAL_MEMORY_SECRETS_DIR=/var/lib/visual-memory/secrets \
    VISUAL_MEMORY_WEB_HOST=0.0.0.0 \
    VISUAL_MEMORY_WEB_PORT=8080
WORKDIR /
USER 10001:10001
EXPOSE 8080
ENTRYPOINT ["visual-memory"]
CMD ["--help"]
