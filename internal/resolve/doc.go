// Package resolve is floor 1: the texts and messages by which a host's name
// becomes addresses. It reads hosts(5) and resolv.conf(5), and makes and reads the
// messages of DNS (RFC 1035). It opens no socket and no file: whoever waits for
// many things in one loop sends the messages there.
//
// Package net does all of this and is not used: it costs every command of slashrun
// 350 KiB and a tenth of a millisecond of its start, and wants goroutines where the
// caller has a loop. docs/wait.md has the figures.
//
// # What is asked
//
//	hosts, _ := resolve.Hosts(file, "db")          /etc/hosts goes first
//	conf, _ := resolve.ParseConfig(file)           nameserver, search, ndots
//	for _, name := range conf.Names("db") { ... }  "db.example.org.", then "db."
//	q := resolve.Query(id, name, resolve.A)        one message, for UDP
//	a, err := resolve.ParseAnswer(b, id, name, resolve.A)
//
// localhost and names below it are this machine without any asking (RFC 6761,
// 6.3).
//
// # What it leaves out
//
// nsswitch.conf and its modules (mDNS, LDAP): a static program cannot load them.
// EDNS: an answer with addresses fits in 512 bytes or is cut off (Answer.Truncated)
// with some addresses in it, or is asked for again over TCP. DNSSEC.
package resolve
