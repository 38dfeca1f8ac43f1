package cli

import (
	"bufio"
	"context"
	"runtime"
	"runtime/debug"
)

// version is set by the linker in "make dist"
// (-X github.com/slashrun/slashrun/internal/cli.version=...).
var version string

// Version returns the version of this build: what the linker was told, else
// what the go command recorded about the module, else "devel".
func Version() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}

func versionCommand() *Command {
	return &Command{
		Name:    "version",
		Summary: "print the version",
		Args:    []string{""},
		Doc:     "Prints the version, the platform and the Go release it was built with, in one\nline. \"slashrun --version\" is the same.",
		Exits:   []Exit{{ExitOK, "printed"}, {ExitUsage, "bad usage, or the output could not be written"}},
		Run:     runVersion,
	}
}

func runVersion(_ context.Context, env *Env, args []string) int {
	if len(args) > 0 && (args[0] == "-h" || args[0] == "--help") {
		return env.Help()
	}
	if len(args) > 0 {
		return env.Usagef("version takes no argument, got %q", args[0])
	}
	return env.Output(func(w *bufio.Writer) {
		w.WriteString("slashrun " + Version() + " (" + runtime.GOOS + "/" + runtime.GOARCH + ", " + runtime.Version() + ")\n")
	})
}
