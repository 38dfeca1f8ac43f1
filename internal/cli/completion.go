package cli

import (
	"bufio"
	"context"
	"strings"
)

func completionCommand() *Command {
	return &Command{
		Name:    "completion",
		Summary: "print a completion script for a shell",
		Args:    []string{"bash|zsh|fish"},
		Doc: `Prints a script that completes commands, options and their values:

  slashrun completion bash >/etc/bash_completion.d/slashrun
  slashrun completion zsh  >"${fpath[1]}/_slashrun"
  slashrun completion fish >~/.config/fish/completions/slashrun.fish`,
		Words: []string{"bash", "zsh", "fish"},
		Exits: []Exit{{ExitOK, "printed"}, {ExitUsage, "bad usage, or the output could not be written"}},
		Run:   runCompletion,
	}
}

func runCompletion(_ context.Context, env *Env, args []string) int {
	if len(args) != 1 {
		return env.Usagef("completion takes one argument, the shell: bash, zsh or fish")
	}
	switch args[0] {
	case "-h", "--help":
		return env.Help()
	case "bash":
		return env.Output(writeBash)
	case "zsh":
		return env.Output(writeZsh)
	case "fish":
		return env.Output(writeFish)
	}
	return env.Usagef("no completion for %q: the shells are bash, zsh and fish", args[0])
}

// operands are the fixed words that can stand in the place of an operand of c.
func (c *Command) operands() []string {
	if c.Name == "help" {
		return commandNames()
	}
	return c.Words
}

func commandNames() []string {
	var names []string
	for _, c := range commands() {
		names = append(names, c.Name)
	}
	return names
}

// single quotes s for a POSIX shell, zsh included.
func single(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// writeBash writes the bash script. Readline breaks words at "=" as well
// (COMP_WORDBREAKS), so "--prefix=/r" arrives as three words.
func writeBash(w *bufio.Writer) {
	w.WriteString(`# bash completion for slashrun, made by "slashrun completion bash"
_slashrun() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev= reply
	COMPREPLY=()
	((COMP_CWORD > 0)) && prev=${COMP_WORDS[COMP_CWORD - 1]}
	if [[ $cur == = ]]; then
		cur=
	elif [[ $prev == = ]]; then
		prev=${COMP_WORDS[COMP_CWORD - 2]}
	fi
	_slashrun_words() { mapfile -t COMPREPLY < <(compgen -W "$1" -- "$cur"); }
	_slashrun_files() {
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
	}
	if ((COMP_CWORD == 1)); then
		_slashrun_words ` + single(strings.Join(append(commandNames(), "--help", "--version"), " ")) + `
		return
	fi
	case ${COMP_WORDS[1]} in
`)
	for _, c := range commands() {
		c.writeBash(w)
	}
	w.WriteString("\tesac\n}\ncomplete -F _slashrun slashrun\n")
}

// writeBash writes the branch for c.
func (c *Command) writeBash(w *bufio.Writer) {
	w.WriteString("\t" + c.Name + ")\n")
	for _, sub := range c.sub() {
		w.WriteString("\t\tif ((COMP_CWORD > 2)) && [[ ${COMP_WORDS[2]} == " + sub.word() + " ]]; then\n")
		sub.writeBashWords(w)
		w.WriteString("\t\t\treturn\n\t\tfi\n")
	}
	c.writeBashWords(w)
	for _, sub := range c.sub() {
		w.WriteString("\t\t((COMP_CWORD == 2)) && [[ -n $cur && " + sub.word() + " == \"$cur\"* ]] && COMPREPLY+=(" + sub.word() + ")\n")
	}
	w.WriteString("\t\t;;\n")
}

// writeBashWords writes what completes behind the name of c.
func (c *Command) writeBashWords(w *bufio.Writer) {
	options := []string{"--help"}
	var values strings.Builder
	for _, f := range c.flags() {
		if f.Long == "help" {
			continue
		}
		options = append(options, f.word())
		switch {
		case f.Values != nil:
			values.WriteString("\t\t" + f.bashPattern() + ") _slashrun_words " + single(strings.Join(f.Values, " ")) + "; return ;;\n")
		case f.Files:
			values.WriteString("\t\t" + f.bashPattern() + ") _slashrun_files; return ;;\n")
		case f.Arg != "" && !f.Optional:
			values.WriteString("\t\t" + f.bashPattern() + ") return ;;\n")
		}
	}
	if values.Len() > 0 {
		w.WriteString("\t\tcase $prev in\n" + values.String() + "\t\tesac\n")
	}
	w.WriteString("\t\tif [[ $cur == -* ]]; then\n\t\t\t_slashrun_words " + single(strings.Join(options, " ")) +
		"\n\t\t\t[[ ${COMPREPLY[0]-} == *= ]] && compopt -o nospace 2>/dev/null\n\t\t\treturn\n\t\tfi\n")
	if words := c.operands(); words != nil {
		w.WriteString("\t\t_slashrun_words " + single(strings.Join(words, " ")) + "\n")
	} else if c.Files {
		w.WriteString("\t\t_slashrun_files\n")
	}
}

// word is what a shell puts on the command line for f.
func (f *Flag) word() string {
	switch {
	case f.Long == "":
		return "-" + string(rune(f.Short))
	case f.Arg != "" && !f.Optional:
		return "--" + f.Long + "="
	}
	return "--" + f.Long
}

// bashPattern matches f where its argument follows.
func (f *Flag) bashPattern() string {
	var p []string
	if f.Long != "" {
		p = append(p, "--"+f.Long)
	}
	if f.Short != 0 {
		p = append(p, "-"+string(rune(f.Short)))
	}
	return strings.Join(p, "|")
}

// writeZsh writes the zsh script: one _arguments call for each command.
func writeZsh(w *bufio.Writer) {
	w.WriteString("#compdef slashrun\n# made by \"slashrun completion zsh\"\n_slashrun() {\n\tlocal -a names\n\tnames=(\n")
	for _, c := range commands() {
		w.WriteString("\t\t" + single(c.Name+":"+c.Summary) + "\n")
	}
	w.WriteString("\t)\n\tif (( CURRENT == 2 )); then\n\t\t_describe -t commands command names\n\t\treturn\n\tfi\n" +
		"\tlocal name=$words[2]\n\tshift words\n\t(( CURRENT-- ))\n\tcase $name in\n")
	for _, c := range commands() {
		w.WriteString("\t" + c.Name + ")\n")
		for _, sub := range c.sub() {
			w.WriteString("\t\tif (( CURRENT > 2 )) && [[ $words[2] == " + sub.word() + " ]]; then\n\t\t\tshift words\n\t\t\t(( CURRENT-- ))\n")
			sub.writeZsh(w)
			w.WriteString("\t\t\treturn\n\t\tfi\n")
		}
		c.writeZsh(w)
		w.WriteString("\t\t;;\n")
	}
	w.WriteString("\tesac\n}\nif [[ $funcstack[1] == _slashrun ]]; then\n\t_slashrun \"$@\"\nelse\n\tcompdef _slashrun slashrun\nfi\n")
}

// writeZsh writes the _arguments call for what stands behind the name of c.
func (c *Command) writeZsh(w *bufio.Writer) {
	w.WriteString("\t\t_arguments -s '--help[print the help]'")
	for _, f := range c.flags() {
		if f.Long != "help" {
			f.writeZsh(w)
		}
	}
	if words := c.operands(); words != nil {
		w.WriteString(" \\\n\t\t\t" + single("*:argument:("+strings.Join(words, " ")+")"))
	} else if c.Files {
		w.WriteString(" \\\n\t\t\t'*:file:_files'")
	}
	w.WriteString("\n")
}

// zshText escapes what ends a part of an _arguments specification.
func zshText(s string) string {
	return strings.NewReplacer("[", `\[`, "]", `\]`, ":", `\:`, "\n", " ").Replace(s)
}

// writeZsh writes the _arguments specifications of f.
func (f *Flag) writeZsh(w *bufio.Writer) {
	value := ""
	if f.Arg != "" {
		colon := ":"
		if f.Optional {
			colon = "::"
		}
		value = colon + zshText(f.Arg) + ":"
		switch {
		case f.Values != nil:
			value += "(" + strings.Join(f.Values, " ") + ")"
		case f.Files:
			value += "_files"
		}
	}
	text := "[" + zshText(f.Help) + "]"
	if f.Long != "" {
		sep := ""
		if f.Arg != "" {
			sep = "="
			if f.Optional {
				sep = "=-"
			}
		}
		w.WriteString(" \\\n\t\t\t" + single("*--"+f.Long+sep+text+value))
	}
	if f.Short != 0 {
		sep := ""
		if f.Arg != "" {
			sep = "+"
			if f.Optional {
				sep = "-"
			}
		}
		w.WriteString(" \\\n\t\t\t" + single("*-"+string(rune(f.Short))+sep+text+value))
	}
}

// fishQuote quotes s for fish, where a backslash counts inside single quotes.
func fishQuote(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`, "\n", " ").Replace(s) + "'"
}

// writeFish writes the fish script.
func writeFish(w *bufio.Writer) {
	w.WriteString("# made by \"slashrun completion fish\"\ncomplete -c slashrun -f\n" +
		"complete -c slashrun -n __fish_use_subcommand -l version -d 'print the version'\n")
	for _, c := range commands() {
		w.WriteString("complete -c slashrun -n __fish_use_subcommand -a " + c.Name + " -d " + fishQuote(c.Summary) + "\n")
		here := "complete -c slashrun -n '__fish_seen_subcommand_from " + c.Name + "'"
		for _, sub := range c.sub() {
			w.WriteString(here + " -a " + sub.word() + " -d " + fishQuote(sub.Summary) + "\n")
			below := "complete -c slashrun -n '__fish_seen_subcommand_from " + c.Name + "; and __fish_seen_subcommand_from " + sub.word() + "'"
			for _, f := range sub.flags() {
				if f.Long != "help" { // which is c's, too
					w.WriteString(below + " -l " + f.Long + " -d " + fishQuote(f.Help) + "\n")
				}
			}
		}
		if words := c.operands(); words != nil {
			w.WriteString(here + " -a " + fishQuote(strings.Join(words, " ")) + "\n")
		} else if c.Files {
			w.WriteString(here + " -F\n")
		}
		for _, f := range c.flags() {
			line := here
			if f.Long != "" {
				line += " -l " + f.Long
			}
			if f.Short != 0 {
				line += " -s " + string(rune(f.Short))
			}
			if f.Arg != "" && !f.Optional {
				line += " -r"
			}
			switch {
			case f.Values != nil:
				line += " -a " + fishQuote(strings.Join(f.Values, " "))
			case f.Files:
				line += " -F"
			}
			w.WriteString(line + " -d " + fishQuote(f.Help) + "\n")
		}
	}
}
