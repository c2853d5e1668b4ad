"""The web page of SimA Lens: one module a tab, thin handlers over `sima_core`."""

from app.sweeping import claim_folder

claim_folder()  # before anything here imports Gradio
