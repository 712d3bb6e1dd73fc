"""launch/pacs.py as a module."""

import importlib.util

import pod

_SPEC = importlib.util.spec_from_file_location("pacs", pod.ROOT / "launch" / "pacs.py")
pacs = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(pacs)
