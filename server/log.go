package server

import (
	"log"
	"log/slog"
)

// discardHandshakeErrors keeps what net/http says of clients that speak no TLS
// or left early at debug level: port scanners are no event.
func discardHandshakeErrors(l *slog.Logger) *log.Logger {
	return slog.NewLogLogger(l.Handler(), slog.LevelDebug)
}
