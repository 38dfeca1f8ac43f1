package cli

// commands is the table of everything that is built in, in the order in which
// help lists it. A new command is one line here.
func commands() []*Command {
	return []*Command{
		helpCommand(),
		tmpfilesCommand(),
		bootCommand(),
		execCommand(),
		tryCommand(),
		pidfileCommand(),
		lockCommand(),
		whyCommand(),
		waitCommand(),
		completionCommand(),
		versionCommand(),
	}
}
