"""Power cuts of real files: a file system that knows what was synced, and forgets the rest.

    disk    pure: files and folders, each as it is now and as it is durable; what a cut leaves of them
    fs      the same as a file system (FUSE)
    server  its process: mounts it, stops at an operation, cuts
    client  starts the server, and asks it
"""
