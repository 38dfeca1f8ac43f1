package process

import (
	"slices"
	"strings"
	"time"
)

// Membership is the service and the container that a process belongs to, as the
// names of its control groups say. They are names that a manager gave, no proof:
// whoever may write to the control groups can move a process or make a group of
// any name. An empty Membership says that the names tell nothing: a process of no
// manager, or one seen from inside of a cgroup namespace of its own.
type Membership struct {
	// Unit is the innermost unit of systemd ("nginx.service", "session-3.scope"; of
	// a user's manager, too), or the service of OpenRC ("nginx"). In a container it
	// is a unit of the manager inside.
	Unit string `json:"unit,omitempty"`
	// Container is the whole id, or for those that have one the name.
	Container string `json:"container,omitempty"`
	// Engine is what made the container, as far as the name tells: "docker",
	// "podman", "cri-o", "containerd", "kubernetes" (under whichever runtime), "lxc",
	// "nspawn".
	Engine string `json:"engine,omitempty"`
	// User is the number of the user whose own manager (user@1000.service) made the
	// unit or container: it has whatever name that user gave it.
	User string `json:"user,omitempty"`
}

// IsZero reports whether nothing is known.
func (m Membership) IsZero() bool { return m == Membership{} }

// String is for people: "nginx.service", "docker 0123456789ab", "nginx.service in
// podman 0123456789ab"; empty where nothing is known.
func (m Membership) String() string {
	of := ""
	if m.User != "" {
		of = " of user " + m.User
	}
	if m.Container == "" {
		return m.Unit + of
	}
	s := m.Container
	if isHex(s) && len(s) == containerID {
		s = s[:12]
	}
	if s = m.Engine + " " + s; m.Engine == "" {
		s = "container" + s
	}
	if m.Unit != "" {
		s = m.Unit + " in " + s
	}
	return s + of
}

// Membership reads /proc/PID/cgroup. pid is a number, "self", or what Lively gives.
func (p *Proc) Membership(pid string) (Membership, error) {
	var buf [2 << 10]byte
	text, err := p.ReadRecord(pid+"/cgroup", buf[:0])
	if err != nil {
		return Membership{}, err
	}
	return ParseCgroup(text), nil
}

// Started is when a process started, by the clock as it is set now: the kernel
// counts start times from the boot. It is exact to a clock tick, 10 ms.
func (p *Proc) Started(st Stat) (time.Time, error) {
	ticks, err := p.ticks(st)
	if err != nil {
		return time.Time{}, err
	}
	realtime, boottime, err := p.Clocks()
	if err != nil {
		return time.Time{}, err
	}
	return time.Unix(0, realtime-boottime+int64(ticks)*tick), nil
}

// ParseCgroup reads what /proc/PID/cgroup has, cgroups(7): "0::/PATH" of version
// 2, "ID:CONTROLLERS:/PATH" of version 1, both on a hybrid machine. There the
// hierarchies of managers (name=systemd, name=openrc) are asked first, then
// version 2, then the others; each part comes from the first that has it. Lines
// and names that it does not know are passed over.
func ParseCgroup(text []byte) Membership {
	var paths [3][]string // by rank
	for line := range strings.Lines(string(text)) {
		_, rest, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		controllers, path, ok2 := strings.Cut(rest, ":")
		if !ok || !ok2 || !strings.HasPrefix(path, "/") {
			continue
		}
		path = strings.TrimSuffix(path, " (deleted)") // the group was removed with the process in it
		switch controllers {
		case "name=systemd":
			paths[0] = append(paths[0], path)
		case "name=openrc":
			paths[0] = append(paths[0], "/openrc"+path)
		case "":
			paths[1] = append(paths[1], path)
		default:
			paths[2] = append(paths[2], path)
		}
	}
	var m Membership
	for _, path := range slices.Concat(paths[:]...) {
		one := ofPath(path)
		switch {
		case m.Container == "" && one.Container != "":
			m = one // a unit found so far is the engine's, or was that of the whole container
		case m.Unit == "" && one.Container == m.Container:
			m.Unit, m.User = one.Unit, one.User
		}
	}
	return m
}

// ofPath is what one path of a control group tells, from the outside in.
func ofPath(path string) Membership {
	var m Membership
	parts, user := strings.Split(path, "/"), ""
	for i, part := range parts {
		before := ""
		if i > 0 {
			before = parts[i-1]
		}
		if id, engine := container(part, before); id != "" {
			if engine == "" && strings.Contains(path, "/kubepods") {
				engine = "kubernetes"
			}
			m.Container, m.Engine, m.User = id, engine, user
			m.Unit = "" // that of the engine, or the container's own scope
			if engine == "nspawn" && strings.HasSuffix(part, ".service") {
				m.Unit = part
			}
			continue
		}
		if u := unit(part, before); u != "" && (u != "init.scope" || m.Unit == "") {
			m.Unit = u
			if m.Container == "" {
				m.User = user
			}
			if uid, ok := strings.CutPrefix(u, "user@"); ok && m.Container == "" && user == "" {
				if uid, ok = strings.CutSuffix(uid, ".service"); ok && strings.Trim(uid, "0123456789") == "" {
					user = uid
				}
			}
		}
	}
	return m
}

// containerID is the length of the ids of Docker, podman, CRI-O and containerd:
// SHA-256 in hexadecimal.
const containerID = 64

// engines are the prefixes of ENGINE-ID.scope, and what a person calls them.
var engines = [...][2]string{
	{"docker", "docker"}, {"libpod", "podman"}, {"crio", "cri-o"},
	{"cri-containerd", "containerd"}, {"nerdctl", "containerd"}, {"buildah", "buildah"},
}

func engineOf(prefix string) string {
	for _, e := range engines {
		if e[0] == prefix {
			return e[1]
		}
	}
	return ""
}

// container returns the id and the engine if the group part, which is in the group
// before, is a container's. The monitors of containers (libpod-conmon-ID.scope,
// lxc.monitor.NAME) are processes of the machine.
func container(part, before string) (id, engine string) {
	name := strings.TrimSuffix(part, ".scope")
	if len(name) >= containerID && isHex(name[len(name)-containerID:]) {
		id = name[len(name)-containerID:]
		switch prefix := name[:len(name)-containerID]; {
		case prefix == "" && before == "docker":
			return id, "docker" // Docker's cgroupfs driver: /docker/ID
		case prefix == "":
			return id, "" // Kubernetes, ECS and others with a cgroupfs driver
		case strings.HasSuffix(prefix, ":"): // containerd whose driver and the kubelet's differ: SLICE:PREFIX:ID
			prefix = strings.TrimSuffix(prefix, ":")
			return id, engineOf(prefix[strings.LastIndexByte(prefix, ':')+1:])
		case strings.HasSuffix(prefix, "-") && engineOf(prefix[:len(prefix)-1]) != "":
			return id, engineOf(prefix[:len(prefix)-1])
		}
		return "", ""
	}
	if name, ok := strings.CutPrefix(part, "lxc.payload."); ok && isName(name) {
		return name, "lxc"
	}
	if (before == "lxc" || before == "lxc.payload") && isName(part) { // before LXC 4
		return part, "lxc"
	}
	if name, ok := strings.CutPrefix(part, "systemd-nspawn@"); ok {
		if name, ok = strings.CutSuffix(name, ".service"); ok && isName(name) {
			return name, "nspawn"
		}
	}
	if name, ok := strings.CutPrefix(name, "machine-"); ok && part != name && strings.HasSuffix(part, ".scope") && isName(name) &&
		!strings.HasPrefix(name, `qemu\x2d`) { // libvirt's virtual machines: the process is the machine's own
		return name, "nspawn"
	}
	return "", ""
}

// unitTypes are the types of units that have processes, systemd.unit(5).
var unitTypes = [...]string{".service", ".scope", ".socket", ".mount", ".swap"}

// unit returns the service if the group part, which is in the group before, is
// one's.
func unit(part, before string) string {
	if before == "openrc" && isName(part) {
		return part
	}
	if name, ok := strings.CutPrefix(part, "openrc."); ok && isName(name) { // version 2
		return name
	}
	part = strings.TrimPrefix(part, "_") // systemd's escape for names that the kernel uses
	for _, suffix := range unitTypes {
		if name, ok := strings.CutSuffix(part, suffix); ok && isName(name) {
			return part
		}
	}
	return ""
}

// isName reports whether s has the characters of a unit's name alone,
// systemd.unit(5), which are those of containers, too.
func isName(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case strings.IndexByte(`:-_.\@`, c) >= 0:
		default:
			return false
		}
	}
	return s != "" && len(s) <= 255 && s != "." && s != ".."
}

func isHex(s string) bool {
	return strings.Trim(s, "0123456789abcdef") == ""
}
