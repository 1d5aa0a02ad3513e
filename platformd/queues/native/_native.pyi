"""The compiled extension: the functions of ``native/platformd.cdef`` through cffi."""

from typing import Any

ffi: Any
lib: Any
