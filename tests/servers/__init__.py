"""Real S3 servers over the wire, and a proxy between that spoils what passes."""
