package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/slashrun/slashrun/internal/getopt"
)

// execPrefix begins the variables that stand for options of exec.
const execPrefix = "SLASHRUN_EXEC_"

// variables sets the options that the environment gives, and returns the
// environment without them: a "slashrun exec" that the command starts has options
// of its own.
func (x *execRun) variables() ([]string, error) {
	ours := func(kv string) bool { return strings.HasPrefix(kv, execPrefix) }
	if !slices.ContainsFunc(x.env.Environ, ours) {
		return x.env.Environ, nil
	}
	var rest []string
	seen := map[string]bool{}
	for _, kv := range x.env.Environ {
		if !ours(kv) {
			rest = append(rest, kv)
			continue
		}
		name, value, _ := strings.Cut(kv, "=")
		if seen[name] { // of two settings the first one counts, getenv(3)
			continue
		}
		seen[name] = true
		if err := x.variable(name, value); err != nil {
			return nil, fmt.Errorf("the variable %s: %w", Quote(name), err)
		}
	}
	return rest, nil
}

// variable sets one option. An empty value is none.
func (x *execRun) variable(name, value string) error {
	long := strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(name, execPrefix)), "_", "-")
	i := slices.IndexFunc(execOptions, func(o getopt.Option) bool { return o.Long == long })
	if i < 0 || long == "help" || variableName(long) != name {
		if value == "" {
			return nil
		}
		// Of a newer version, or of a Kubernetes Service that is called so.
		x.unknown = append(x.unknown, "the variable "+Quote(name)+", for which there is no option")
		return nil
	}
	if value == "" {
		return nil
	}
	if execOptions[i].Arg == getopt.NoArg {
		on, err := parseBool(value)
		if err != nil || !on {
			return err
		}
	}
	return x.option(long, value, true)
}

func variableName(long string) string {
	return execPrefix + strings.ToUpper(strings.ReplaceAll(long, "-", "_"))
}

// parseBool reads a switch as people write it in manifests.
func parseBool(s string) (bool, error) {
	switch strings.ToLower(s) {
	case "1", "yes", "y", "true", "t", "on":
		return true, nil
	case "0", "no", "n", "false", "f", "off":
		return false, nil
	}
	return false, fmt.Errorf("%s is neither yes nor no", Quote(s))
}
