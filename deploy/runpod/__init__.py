"""RunPod's API: client, pages, models, errors, credentials; finding pods and ending them."""
