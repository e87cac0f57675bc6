package wire

const victimVariable = "SKEIN_TEST_VICTIM"

func beVictim(string) {}
