"""The gateway: MOM over REST for any HTTP client. Keeps nothing; any replica serves any call."""
