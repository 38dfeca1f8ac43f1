package difftest

const attackerEnv = "SLASHRUN_DIFF_ATTACKER"

func attackerMain() int { return 1 }
