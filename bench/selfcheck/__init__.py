"""Is this machine right? A few small cells against committed bands, and what they rest on."""
