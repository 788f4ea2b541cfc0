"""A visual memory as a library: remember, correct, forget and recall images, without Kafka.

The public names stand in ``__init__.pyi``. Each is loaded at its first use: who needs the errors
alone, as a client does, loads no image library.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
