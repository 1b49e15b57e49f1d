package store

import "testing"

func TestLayout(t *testing.T) {
	for _, c := range []struct {
		layout    layout
		name, key string
	}{
		{newLayout("sites", "networks/*/sites/*"), "networks/demo/sites/berlin", "/swanherd/v1/sites/demo/berlin"},
		{newLayout("edge_status", "networks/*/edges/*"), "networks/demo/edges/berlin", "/swanherd/v1/edge_status/demo/berlin"},
		{newLayout("networks", "networks/*"), "networks/demo", "/swanherd/v1/networks/demo"},
		{newLayout("cas", "certificateAuthorities/**"), "certificateAuthorities/controller", "/swanherd/v1/cas/controller"},
		{newLayout("cas", "certificateAuthorities/**"), "certificateAuthorities/networks/controller", "/swanherd/v1/cas/networks/controller"},
	} {
		key, err := c.layout.key(c.name)
		if err != nil || key != c.key {
			t.Errorf("key(%s) = %s, %v; want %s", c.name, key, err, c.key)
		}
		if name, err := c.layout.name(c.key); err != nil || name != c.name {
			t.Errorf("name(%s) = %s, %v; want %s", c.key, name, err, c.name)
		}
	}
	sites := newLayout("sites", "networks/*/sites/*")
	for _, bad := range []string{"", "networks/demo", "networks//sites/berlin", "networks/demo/sites/", "networks/demo/sites/a/b", "networks/demo/edges/a"} {
		if key, err := sites.key(bad); err == nil {
			t.Errorf("key(%q) = %s, want an error", bad, key)
		}
	}
	for _, bad := range []string{"/swanherd/v1/sites/demo", "/swanherd/v1/sites/demo/a/b", "/swanherd/v1/edges/demo/a"} {
		if name, err := sites.name(bad); err == nil {
			t.Errorf("name(%q) = %s, want an error", bad, name)
		}
	}
}
