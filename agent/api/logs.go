package api

import (
	"log/slog"

	"k8s.io/klog/v2"
)

// SetLibraryLogger sends the logs of the Kubernetes libraries to logger. These
// libraries have one logger for the whole process, which must not change while they
// run. So the program calls this function once, before it creates a Server.
func SetLibraryLogger(logger *slog.Logger) { klog.SetSlogLogger(logger) }
