package api_test

import (
	"log/slog"
	"os"
	"testing"

	"virtmesh/agent/api"
)

func TestMain(m *testing.M) {
	api.SetLibraryLogger(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}
