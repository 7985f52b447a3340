package wsman

// OverTLS reports whether this client was made for an https endpoint, so that it talks TLS or not at all.
func (c *Client) OverTLS() bool { return c.tls != nil }
