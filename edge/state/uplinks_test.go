package state

import (
	"os"
	"slices"
	"testing"
	"time"
)

func TestUplinks(t *testing.T) {
	d := open(t)
	if known, err := d.LoadUplinks(); known != nil || err != nil {
		t.Errorf("at first %v, %v", known, err)
	}
	want := []KnownUplink{
		{Name: "wan2", Interface: "eth1", HardwareAddress: "02:00:00:00:00:01", Seen: time.Date(2026, 11, 27, 0, 0, 0, 0, time.UTC)},
		{Name: "wan1", Interface: "ppp0", Seen: time.Now().UTC().Truncate(24 * time.Hour)},
	}
	if err := d.SaveUplinks(want); err != nil {
		t.Fatal(err)
	}
	if known, err := d.LoadUplinks(); !slices.Equal(known, want) || err != nil {
		t.Errorf("after a restart %v, %v, want %v", known, err, want)
	}
	if err := os.WriteFile(d.uplinksPath(), []byte("{"), fileMode); err != nil {
		t.Fatal(err)
	}
	if known, err := d.LoadUplinks(); known != nil || err == nil {
		t.Errorf("broken: %v, %v", known, err)
	}
}
