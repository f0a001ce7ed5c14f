"""Generated from ``control.proto`` and ``worker.proto`` by ``make protos``; nothing by hand."""
