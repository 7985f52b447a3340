package intake

import "math"

// maxFiles is how many files this process may open: sockets have no bound of their own here.
func maxFiles() int { return math.MaxInt }
