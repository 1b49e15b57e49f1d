package edge

import (
	"runtime/debug"
	"sync"
)

// version is set by release builds, with -ldflags "-X".
var version string

// Version is the agent's version: a release's, or the revision of the source it
// was built from.
var Version = sync.OnceValue(func() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return "devel-" + s.Value[:min(12, len(s.Value))]
		}
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	return "devel"
})
