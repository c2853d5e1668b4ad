"""The web page of SimA Lens: one module a tab, thin handlers over `sima_core`."""
