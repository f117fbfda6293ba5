"""The daemon as a program: its flags and file, its sockets, its pidfile, its log."""
