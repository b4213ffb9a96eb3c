"""The studio: the whole method in a browser, on a queue that outlives its server."""
