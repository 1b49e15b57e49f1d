package store

import (
	"strings"
	"testing"

	"go.etcd.io/etcd/server/v3/embed"
)

func TestEtcdThatPanicsAtItsStart(t *testing.T) {
	server, err := survive(func() (*embed.Etcd, error) { panic("failed to create WAL") })
	if server != nil || err == nil || !strings.Contains(err.Error(), "failed to create WAL") {
		t.Errorf("got %v, %v", server, err)
	}
}
