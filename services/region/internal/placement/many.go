package placement

// Many is what became of several machines that were placed in one pass.
type Many struct {
	// Plans are where they go, in the order of the requests. Those that do not fit
	// have a plan without a host, with the reasons.
	Plans []Plan
	// Unplaced is how many do not fit; with all of them wanted and one that does not
	// fit, it is all.
	Unplaced int
	// Refused is the first that does not fit, -1 when all do. Its plan says why.
	Refused int
}
