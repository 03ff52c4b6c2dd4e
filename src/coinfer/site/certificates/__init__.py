"""Who is who in a site: an authority, certificates with roles, and what each role may call. Start at `authority.py`."""
