package fuser

import "fmt"

// unseen counts what could not be seen.
type unseen struct {
	denied   int    // processes
	hangs    int    // descriptors and directories that would not answer
	first    string // the first that hung
	silent   int    // processes
	givenUp  int    // processes that were not looked at, as too much hung
	threads  int
	mappings int // processes
	churn    bool
	locks    string // why /proc/locks tells nothing

	netns     int    // network namespaces that could not be entered
	netnsWhy  error  // of the first
	sockets   string // why there is no list of sockets
	outOfList int    // unix sockets that are in no list
	inFlight  int    // descriptors in the queues of sockets
	queues    int    // that could not be looked at
}

func (u *unseen) merge(f *found) {
	if f.denied {
		u.denied++
	}
	if f.silent {
		u.silent++
	}
	if u.hangs += f.hangs; f.hangs > 0 {
		u.hang(f.st.PID)
	}
	u.threads += f.threads
	if f.mappings {
		u.mappings++
	}
}

// hang notes who made us wait.
func (u *unseen) hang(pid int) {
	if u.first == "" {
		u.first = fmt.Sprintf("process %d", pid)
	}
}

// list is what is missing, in words.
func (u *unseen) list(s *scan) (list []string) {
	add := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	if why := s.proc.Hidden(); why != "" {
		add("%s", why)
	}
	if !s.proc.Initial() {
		add("processes outside of this PID namespace cannot be seen")
	}
	if u.denied > 0 {
		add("the descriptors, directories and mappings of %s of other users cannot be seen", count(u.denied, "process", "es"))
	}
	if u.hangs > 0 {
		add("%s on file systems that do not answer, or might not, and cannot be seen; the first of %s", are(u.hangs, "use", "s"), u.first)
	}
	if u.silent > 0 {
		add("%s not answer, the first is %s", does(u.silent, "process", "processes"), u.first)
	}
	if u.givenUp > 0 {
		add("%s not looked at, as too many files did not answer", were(u.givenUp, "process", "es"))
	}
	if u.threads > 0 {
		add("the descriptors of %s, which may have some of their own, were not looked at", count(u.threads, "thread", "s"))
	}
	if u.mappings > 0 {
		add("the mappings of %s cannot be compared with this file system without CAP_SYS_ADMIN", count(u.mappings, "process", "es"))
	}
	if u.churn {
		add("processes come and go faster than they can be looked at")
	}
	for _, why := range []string{u.locks, u.sockets} {
		if why != "" {
			add("%s", why)
		}
	}
	if u.netns > 0 {
		add("the sockets of %s cannot be seen: %v", count(u.netns, "network namespace", "s"), u.netnsWhy)
	}
	if u.outOfList > 0 {
		add("%s in network namespaces that nothing but a descriptor holds, and cannot be seen", are(u.outOfList, "socket", "s"))
	}
	if u.inFlight > 0 {
		add("%s in the queues of sockets (SCM_RIGHTS) and cannot be seen", lie(u.inFlight, "descriptor", "s"))
	}
	if u.queues > 0 {
		add("what lies in the queues of %s cannot be seen", count(u.queues, "socket", "s"))
	}
	return list
}

func count(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s%s", n, one, more)
}

func does(n int, one, many string) string {
	if n == 1 {
		return "1 " + one + " does"
	}
	return fmt.Sprintf("%d %s do", n, many)
}

func were(n int, one, more string) string { return verb(n, one, more, "was", "were") }
func are(n int, one, more string) string  { return verb(n, one, more, "is", "are") }
func lie(n int, one, more string) string  { return verb(n, one, more, "lies", "lie") }

func verb(n int, one, more, single, plural string) string {
	if n == 1 {
		return "1 " + one + " " + single
	}
	return fmt.Sprintf("%d %s%s %s", n, one, more, plural)
}
