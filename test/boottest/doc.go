// Package boottest tests slashrun boot from outside, as the program that images
// and init systems call: as PID 1 of containers, from init scripts in Debian's
// root trees, and in virtual machines from the initramfs to the second boot. It
// has tests alone. How the pieces behave is tested beside them, in
// internal/prepare and internal/mounts.
package boottest
