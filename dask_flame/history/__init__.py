"""What happened to the pools and their runners, kept in bounded memory."""
