"""Where things are kept: metadata in one store, blobs in another. One file per implementation."""
