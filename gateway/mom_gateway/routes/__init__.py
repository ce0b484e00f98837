"""The routes of REST, one module a resource."""
