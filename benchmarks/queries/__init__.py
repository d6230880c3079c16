"""How fast usage is answered over HTTP."""
