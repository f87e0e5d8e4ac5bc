package placement

// HasImage says whether the host has the image and the profiles of a request for a
// machine of the architecture.
func (h *Host) HasImage(req *Request, architecture string) bool {
	f := fitting{architecture: architecture}
	return f.chooseImage(h, req) && f.architecture == architecture
}

// Load is how loaded the host is, 0 to 1, as Plan.Load.
func (h *Host) Load() float64 { return h.loadWith(0, 0) }
