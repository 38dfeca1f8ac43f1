package filecaps

import (
	"strconv"
	"strings"
)

// names are the capabilities of linux/capability.h, by number.
var names = [LastCap + 1]string{
	"cap_chown", "cap_dac_override", "cap_dac_read_search", "cap_fowner", "cap_fsetid", "cap_kill",
	"cap_setgid", "cap_setuid", "cap_setpcap", "cap_linux_immutable", "cap_net_bind_service",
	"cap_net_broadcast", "cap_net_admin", "cap_net_raw", "cap_ipc_lock", "cap_ipc_owner",
	"cap_sys_module", "cap_sys_rawio", "cap_sys_chroot", "cap_sys_ptrace", "cap_sys_pacct",
	"cap_sys_admin", "cap_sys_boot", "cap_sys_nice", "cap_sys_resource", "cap_sys_time",
	"cap_sys_tty_config", "cap_mknod", "cap_lease", "cap_audit_write", "cap_audit_control",
	"cap_setfcap", "cap_mac_override", "cap_mac_admin", "cap_syslog", "cap_wake_alarm",
	"cap_block_suspend", "cap_audit_read", "cap_perfmon", "cap_bpf", "cap_checkpoint_restore",
}

// Name is the name of capability n, or its number if it has none.
func Name(n int) string {
	if n >= 0 && n < len(names) {
		return names[n]
	}
	return strconv.Itoa(n)
}

// Number is the capability with that name, in any case of its letters, or with
// that number from 0 to MaxCap. ok is false if there is none.
func Number(name string) (n int, ok bool) {
	for i := range names {
		if strings.EqualFold(names[i], name) {
			return i, true
		}
	}
	if strings.Contains(name, "_") { // ParseInt takes 1_0
		return 0, false
	}
	v, err := strconv.ParseInt(name, 0, 32)
	return int(v), err == nil && v >= 0 && v <= MaxCap
}
