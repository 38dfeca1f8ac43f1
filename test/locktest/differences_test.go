package locktest

import (
	"os"
	"strings"
	"testing"
)

// A difference is one that is meant. Its id stands in docs/lock.md with the reason.
type difference struct {
	id string
	// is reports whether the difference explains two results, nil where it shows in
	// a test of its own.
	is func(script string, want, got result) bool
}

var differences = []difference{
	{"fractions-are-exact", func(script string, want, got result) bool {
		return strings.Contains(script, "1.25G") && want.Status == got.Status &&
			strings.Replace(want.Stdout, " 1342177279 ", " 1342177280 ", 1) == got.Stdout
	}},
	{"messages-that-cannot-be-written", func(script string, want, got result) bool {
		// The shell prints the status, or it is that of the case.
		if strings.Contains(script, "echo $?") {
			return strings.Contains(script, "2>") && want.Stdout == "1\n" && (got.Stdout == "64\n" || got.Stdout == "65\n")
		}
		return strings.Contains(script, "--verbose F true >/dev/full") && want.Status == 1 && got.Status == 0
	}},
	{"standard-descriptors", func(script string, want, got result) bool {
		return strings.Contains(script, "F ./probe") && strings.HasSuffix(script, "&-") && want.Status == got.Status &&
			want.Stdout == strings.Replace(got.Stdout, "fd 3 F 0100000\n", "", 1)
	}},
	{"ignored-signals", func(script string, want, got result) bool {
		ignored := false
		traps, _, _ := strings.Cut(script, ";")
		for _, name := range []string{"TERM", "QUIT", "PIPE", "USR1", "INT"} { // where INT is, QUIT is too
			ignored = ignored || strings.HasPrefix(traps, "trap '' ") && strings.Contains(traps, name)
		}
		return ignored && want.Status == got.Status && withoutIgnored(want.Stdout) == withoutIgnored(got.Stdout)
	}},
	{"fifo-without-waiting", func(script string, want, got result) bool {
		return strings.Contains(script, "$FLOCK -n P true") && want.Status == 124 && got.Status == 0
	}},
	{id: "blocked-signals"},       // TestBlockedSignals
	{id: "replaced-files"},        // TestReplacedFile
	{id: "open-files"},            // only ours can be made to run so low
	{id: "alarm-while-waiting"},   // TestSignalsWhileWaiting
	{id: "verbose"},               // text is not compared
	{id: "duplicate-variables"},   // no shell hands down such an environment
	{id: "busybox-exit-statuses"}, // TestLikeBusybox
}

// withoutIgnored is the output of the probe without the ignored signals.
func withoutIgnored(s string) string {
	before, after, _ := strings.Cut(s, "SigIgn:")
	_, after, _ = strings.Cut(after, "\n")
	return before + after
}

// accepted is the id of the difference that explains two results, "" if none does.
func accepted(script string, want, got result) string {
	for _, d := range differences {
		if d.is != nil && want.Files == got.Files && d.is(script, want, got) {
			return d.id
		}
	}
	return ""
}

// What is meant has its reason in the document.
func TestDifferencesAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/lock.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range differences {
		if !strings.Contains(string(text), "`"+d.id+"`") {
			t.Errorf("docs/lock.md does not speak of %s", d.id)
		}
	}
}
