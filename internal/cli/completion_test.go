package cli

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/slashrun/slashrun/internal/testenv"
)

// completionScript writes the script for shell to a file.
func completionScript(t *testing.T, shell string) string {
	t.Helper()
	env, stdout, stderr := testEnv("slashrun", "completion", shell)
	if code := Run(context.Background(), env); code != ExitOK {
		t.Fatalf("slashrun completion %s = %d: %s", shell, code, stderr)
	}
	path := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(path, stdout.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// shell runs a shell with a home of its own and returns what it printed.
func shell(t *testing.T, name string, args ...string) []string {
	t.Helper()
	cmd := exec.Command(name, args...)
	home := t.TempDir()
	cmd.Env = []string{"HOME=" + home, "XDG_CONFIG_HOME=" + home, "XDG_DATA_HOME=" + home, "XDG_CACHE_HOME=" + home,
		"PATH=" + os.Getenv("PATH"), "LANG=C.UTF-8", "TERM=dumb"}
	cmd.Dir = home
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Fatalf("%s: %v\n%s", name, err, &stderr)
	}
	return strings.Split(strings.TrimRight(string(out), "\n"), "\n")
}

// wantNames holds that every command is offered.
func wantNames(t *testing.T, got []string) {
	t.Helper()
	for _, n := range commandNames() {
		if !slices.Contains(got, n) {
			t.Errorf("%s is not among the completions of \"slashrun \": %q", n, got)
		}
	}
}

func TestBashCompletes(t *testing.T) {
	testenv.Need(t, testenv.Tool("bash"))
	script := completionScript(t, "bash")
	complete := func(words ...string) []string {
		return shell(t, "bash", append([]string{"--norc", "-u", "-c",
			`source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _slashrun; printf '%s\n' "${COMPREPLY[@]}"`, "bash", script}, words...)...)
	}
	wantNames(t, complete("slashrun", ""))
	for _, c := range []struct{ line, want string }{
		{"slashrun comp", "completion"},
		{"slashrun completion z", "zsh"},
		{"slashrun help vers", "version"},
		{"slashrun tmpfiles --crea", "--create"},
		{"slashrun tmpfiles --exclude-", "--exclude-prefix="},
		{"slashrun lock list --dead", "--deadlocks"},
		{"slashrun lock --excl", "--exclusive"},
		{"slashrun lock lis", "list"},
		// Readline breaks the word at "=".
		{"slashrun tmpfiles --root = /pro", "/proc"},
		{"slashrun tmpfiles --root = /dev/nul", "/dev/null"},
	} {
		if diff := cmp.Diff([]string{c.want}, complete(strings.Split(c.line, " ")...)); diff != "" {
			t.Errorf("%s (-want +got)\n%s", c.line, diff)
		}
	}
}

func TestFishCompletes(t *testing.T) {
	testenv.Need(t, testenv.Tool("fish"))
	script := completionScript(t, "fish")
	complete := func(line string) []string {
		var words []string
		for _, l := range shell(t, "fish", "--no-config", "-c", `source $argv[1]; complete -C $argv[2]`, script, line) {
			word, _, _ := strings.Cut(l, "\t")
			words = append(words, word)
		}
		return words
	}
	wantNames(t, complete("slashrun "))
	for _, c := range []struct{ line, want string }{
		{"slashrun comp", "completion"},
		{"slashrun completion z", "zsh"},
		{"slashrun tmpfiles --crea", "--create"},
		{"slashrun tmpfiles --exclude-", "--exclude-prefix"},
		{"slashrun tmpfiles --root=/dev/nul", "--root=/dev/null"},
	} {
		if diff := cmp.Diff([]string{c.want}, complete(c.line)); diff != "" {
			t.Errorf("%s (-want +got)\n%s", c.line, diff)
		}
	}
}

// zsh completes on a terminal alone: the line is typed with tabs into a second
// zsh, where slashrun is a function that prints what it was called with.
func TestZshCompletes(t *testing.T) {
	testenv.Need(t, testenv.Tool("zsh"))
	script := completionScript(t, "zsh")
	const driver = `zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z "PS1= PS2=; autoload -U compinit; compinit -D -u; source $1; slashrun() { print RAN:\$*: }; print RE''ADY"
zpty -r z out '*READY*'
for typed in "${@:2}"; do
	zpty -w z "slashrun $typed"
	zpty -r z out '*RAN:*:*'
	print -r -- ${${out##*RAN:}%%:*}
done
zpty -d z`
	cases := [][2]string{
		{"comp\tz\t", "completion zsh"},
		{"help vers\t", "help version"},
		{"tmpfiles --crea\t", "tmpfiles --create"},
		{"tmpfiles --exclude-\t/x", "tmpfiles --exclude-prefix=/x"},
		{"tmpfiles --root=/dev/nul\t", "tmpfiles --root=/dev/null"},
	}
	args := []string{"-f", "-c", driver, "zsh", script}
	var want []string
	for _, c := range cases {
		args, want = append(args, c[0]), append(want, c[1])
	}
	var got []string
	for _, l := range shell(t, "zsh", args...) {
		got = append(got, strings.TrimSpace(l))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("typed with tabs (-want +got)\n%s", diff)
	}
}
