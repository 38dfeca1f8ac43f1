package process

import (
	"strings"
	"testing"
	"time"
)

// The paths are as the engines make them with their cgroupfs and systemd drivers.
func TestParseCgroup(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	for text, want := range map[string]Membership{
		"":                                      {},
		"0::/":                                  {},
		"garbage":                               {},
		"0::/system.slice/nginx.service":        {Unit: "nginx.service"},
		"0::/system.slice/nginx.service/worker": {Unit: "nginx.service"},
		"0::/system.slice/nginx.service (deleted)":                                                      {Unit: "nginx.service"},
		"0::/system.slice/_cpu.service":                                                                 {Unit: "cpu.service"},
		"0::/system.slice/system-getty.slice/getty@tty1.service":                                        {Unit: "getty@tty1.service"},
		`0::/system.slice/run-a\x2db.mount`:                                                             {Unit: `run-a\x2db.mount`},
		"0::/init.scope":                                                                                {Unit: "init.scope"},
		"0::/user.slice/user-1000.slice/session-3.scope":                                                {Unit: "session-3.scope"},
		"0::/user.slice/user-1000.slice/user@1000.service/init.scope":                                   {Unit: "user@1000.service"},
		"0::/user.slice/user-1000.slice/user@1000.service/app.slice/foo.service":                        {Unit: "foo.service", User: "1000"},
		"0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + id + ".scope/container": {Container: id, Engine: "podman", User: "1000"},
		"0::/user.slice/user-1000.slice/user@1000.service/app.slice/user@0.service/sshd.service":        {Unit: "sshd.service", User: "1000"},
		"0::/../../system.slice/nginx.service":                                                          {Unit: "nginx.service"},
		"0::/system.slice/no\x1b[31m.service":                                                           {},
		"0::/system.slice/.service":                                                                     {},
		"0::/openrc.nginx":                                                                              {Unit: "nginx"},
		"1:name=openrc:/sshd\n0::/":                                                                     {Unit: "sshd"},
		"0::/openrc/sshd":                                                                               {Unit: "sshd"},
		"0::/system.slice/docker-" + id + ".scope":                                                      {Container: id, Engine: "docker"},
		"0::/system.slice/docker-" + id + ".scope/init.scope":                                           {Container: id, Engine: "docker", Unit: "init.scope"},
		"0::/system.slice/docker-" + id + ".scope/system.slice/nginx.service":                           {Container: id, Engine: "docker", Unit: "nginx.service"},
		"0::/docker/" + id:                                                                              {Container: id, Engine: "docker"},
		"0::/machine.slice/libpod-" + id + ".scope/container":                                           {Container: id, Engine: "podman"},
		"0::/libpod_parent/libpod-" + id:                                                                {Container: id, Engine: "podman"},
		"0::/machine.slice/libpod-conmon-" + id + ".scope":                                              {Unit: "libpod-conmon-" + id + ".scope"},
		"0::/kubepods.slice/kubepods-pod1_2.slice/crio-" + id + ".scope":                                {Container: id, Engine: "cri-o"},
		"0::/kubepods.slice/kubepods-burstable.slice/cri-containerd-" + id + ".scope":                   {Container: id, Engine: "containerd"},
		"0::/kubepods/burstable/pod1-2/" + id:                                                           {Container: id, Engine: "kubernetes"},
		"0::/system.slice/containerd.service/kubepods-pod1.slice:cri-containerd:" + id:                  {Container: id, Engine: "containerd"},
		"0::/ecs/task/" + id:                                                                            {Container: id},
		"0::/lxc.payload.web/system.slice/nginx.service":                                                {Container: "web", Engine: "lxc", Unit: "nginx.service"},
		"0::/lxc.monitor.web":                                                                           {},
		"0::/lxc/web":                                                                                   {Container: "web", Engine: "lxc"},
		"0::/machine.slice/systemd-nspawn@web.service/payload":                                          {Container: "web", Engine: "nspawn", Unit: "systemd-nspawn@web.service"},
		"0::/machine.slice/systemd-nspawn@web.service/payload/system.slice/a.service":                   {Container: "web", Engine: "nspawn", Unit: "a.service"},
		"0::/machine.slice/machine-web.scope/payload":                                                   {Container: "web", Engine: "nspawn"},
		`0::/machine.slice/machine-qemu\x2d1\x2dvm.scope`:                                               {Unit: `machine-qemu\x2d1\x2dvm.scope`},
		"9:name=systemd:/\n4:memory:/docker/" + id + "\n0::/":                                           {Container: id, Engine: "docker"},
		"9:name=systemd:/system.slice/a.service\n4:memory:/b.service\n0::/c.service":                    {Unit: "a.service"},
		"5:cpu,cpuacct:/system.slice/a.service\n1:name=systemd:/\n0::/":                                 {Unit: "a.service"},
		"1:name=systemd:/docker/" + id + "\n2:cpu:/system.slice/docker.service\n0::/":                   {Container: id, Engine: "docker"},
	} {
		if got := ParseCgroup([]byte(text)); got != want {
			t.Errorf("%q\n got %+v\nwant %+v", text, got, want)
		}
	}
}

func TestMembershipForPeople(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	for want, m := range map[string]Membership{
		"":                                     {},
		"nginx.service":                        {Unit: "nginx.service"},
		"docker 0123456789ab":                  {Container: id, Engine: "docker"},
		"nginx.service in podman 0123456789ab": {Unit: "nginx.service", Container: id, Engine: "podman"},
		"sshd.service of user 1000":            {Unit: "sshd.service", User: "1000"},
		"lxc web":                              {Container: "web", Engine: "lxc"},
		"container 0123456789ab":               {Container: id},
	} {
		if got := m.String(); got != want {
			t.Errorf("%+v: %q, want %q", m, got, want)
		}
		if m.IsZero() != (want == "") {
			t.Errorf("%+v: IsZero is %v", m, m.IsZero())
		}
	}
}

func FuzzParseCgroup(f *testing.F) {
	f.Add("9:name=systemd:/system.slice/a.service\n0::/docker/" + strings.Repeat("a", containerID))
	f.Add("0::/machine.slice/machine-web.scope/payload\n1:name=openrc:/x")
	f.Add("0::/a:b:" + strings.Repeat("f", containerID) + " (deleted)")
	f.Fuzz(func(t *testing.T, text string) {
		m := ParseCgroup([]byte(text))
		for _, s := range []string{m.Unit, m.Container, m.Engine, m.User} {
			if s != "" && (!isName(s) || !strings.Contains(text, s) && s != m.Engine) {
				t.Errorf("%q gives %+v", text, m)
			}
		}
		if m.Container == "" && m.Engine != "" {
			t.Errorf("%q gives an engine without a container: %+v", text, m)
		}
		_ = m.String()
	})
}

func TestMembershipOfSelf(t *testing.T) {
	p := open(t)
	if _, err := p.Membership("self"); err != nil {
		t.Error(err)
	}
	if _, err := p.Membership("0"); !Gone(err) {
		t.Errorf("there is no process 0: %v", err)
	}
}

func TestStarted(t *testing.T) {
	p := open(t)
	st, err := p.stat(p.Self())
	if err != nil {
		t.Fatal(err)
	}
	began, err := p.Started(st)
	if err != nil {
		t.Fatal(err)
	}
	// Go's own clock cannot know when the process started: but not later than now,
	// and the boot was before.
	if boot, err := p.Started(Stat{}); err != nil || !boot.Before(began) || began.After(time.Now()) {
		t.Errorf("boot %v (%v), start %v, now %v", boot, err, began, time.Now())
	}
}
