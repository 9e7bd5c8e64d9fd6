package main

import (
	"os"
	"strings"
	"testing"
)

func TestOnlyPagesThatCannotBeWrittenToAreDropped(t *testing.T) {
	const exe = "/usr/bin/outrider"
	for line, want := range map[string]bool{
		"00400000-01234000 r-xp 00000000 fe:00 42 /usr/bin/outrider\n":    true,
		"01234000-02345000 r--p 00e34000 fe:00 42 /usr/bin/outrider\n":    true,
		"02345000-02400000 rw-p 01f45000 fe:00 42 /usr/bin/outrider\n":    false, // its data
		"02400000-02500000 r--s 00000000 fe:00 42 /usr/bin/outrider\n":    false, // somebody else's too
		"7f0000000000-7f0000001000 r-xp 00000000 fe:00 43 /lib/libc.so\n": false,
		"7f0000000000-7f0000001000 rw-p 00000000 00:00 0 \n":              false,
		"nonsense": false,
		"7-1 r-xp 00000000 fe:00 42 /usr/bin/outrider": false,
	} {
		if _, _, ok := programPages(line, exe); ok != want {
			t.Errorf("%q: %t, want %t", line, ok, want)
		}
	}
	start, size, _ := programPages("00400000-00401000 r-xp 00000000 fe:00 42 /usr/bin/outrider", exe)
	if start != 0x400000 || size != 0x1000 {
		t.Errorf("from %#x, %d bytes", start, size)
	}
}

func TestProgramGoesOnWithoutTheStartsPages(t *testing.T) {
	if err := dropProgramPages(); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile("/proc/self/maps"); err != nil || !strings.Contains(string(text), "r-xp") {
		t.Errorf("maps: %v\n%s", err, text)
	}
}
