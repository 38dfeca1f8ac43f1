package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/slashrun/slashrun/internal/nstest"
	"github.com/slashrun/slashrun/internal/podtest"
	"github.com/slashrun/slashrun/internal/testenv"
)

// envProgram tells the test inside where the program is that was built outside.
const envProgram = "SLASHRUN_TRY_PROGRAM"

// staticSlashrun builds the program as a release has it. Inside of nstest's
// namespaces the caches are read-only: there it is the one built before.
func staticSlashrun(t *testing.T) string {
	t.Helper()
	if nstest.Inside() {
		return os.Getenv(envProgram)
	}
	prog := filepath.Join(t.TempDir(), "slashrun")
	cmd := exec.Command("go", "build", "-o", prog, "github.com/slashrun/slashrun/cmd/slashrun")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return prog
}

// dockerLike denies what Docker's default profile denies without CAP_SYS_ADMIN:
// new namespaces (CLONE_NEWUSER is 0x10000000) and mounts.
const dockerLike = `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
	{"names": ["clone"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": [{"index": 0, "value": 268435456, "valueTwo": 268435456, "op": "SCMP_CMP_MASKED_EQ"}]},
	{"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
	{"names": ["unshare", "mount"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}`

// Podman's default profile lets a container make one, though /proc is masked.
// Docker's does not, and the error names the options to start with.
func TestTryInContainers(t *testing.T) {
	testenv.Need(t, testenv.Root)
	prog := staticSlashrun(t)
	for name, rootless := range map[string]bool{"rootful": false, "rootless": true} {
		t.Run(name, func(t *testing.T) {
			o := podtest.Options{Rootless: rootless, Keep: []string{filepath.Dir(prog)}, Env: []string{envProgram + "=" + prog}}
			podtest.Run(t, o, func(t *testing.T, p *podtest.Podman) {
				data, err := os.ReadFile(os.Getenv(envProgram))
				if err != nil {
					t.Fatal(err)
				}
				tree := t.TempDir()
				if err := os.WriteFile(tree+"/slashrun", data, 0o755); err != nil {
					t.Fatal(err)
				}
				populate(t, map[string]string{tree + "/etc/tmpfiles.d/a.conf": "d /run/mine 0711\n"})
				image := p.Import(t, tree)
				const profile = "/tmp/profile.json" // in a /tmp of our own, which the user nobody can read
				populate(t, map[string]string{profile: dockerLike})
				r := p.Run(t, "--security-opt=seccomp="+profile, image, "/slashrun", "try")
				if r.Status != 125 || !strings.Contains(r.Stderr, "--security-opt seccomp=unconfined") || strings.Count(r.Stderr, "\n") != 1 {
					t.Errorf("with a profile like Docker's: %v", r)
				}
				r = p.Run(t, image, "/slashrun", "try", "/slashrun", "tmpfiles", "--create", "--check", "--prefix=/run")
				if r.Status != 0 || !strings.Contains(r.Stdout, "  drwx--x--x root:root    mine/\n") {
					t.Errorf("with the default profile: %v", r)
				}
				checkTour(t, strings.TrimSuffix(r.Stdout, "\n"))
				if !strings.Contains(r.Stdout, "/proc shows the processes outside") {
					t.Errorf("no note of the masked /proc: %v", r)
				}
				r = p.Run(t, "--security-opt=unmask=ALL", image, "/slashrun", "try")
				if r.Status != 0 || strings.Contains(r.Stdout, "Notes") {
					t.Errorf("with /proc unmasked: %v", r)
				}
			})
		})
	}
}
