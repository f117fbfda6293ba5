"""What survives a crash: rows, blobs, snapshots."""
