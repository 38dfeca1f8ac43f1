package condition

// role is what the test binary does in another process.
func role() int { return 1 }
