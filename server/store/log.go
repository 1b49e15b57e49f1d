package store

import (
	"context"
	"log/slog"
	"regexp"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// repeatEvery is how often etcd may say the same: it does so each few seconds for as long
// as a member is away, and thousands of times at a start after a crash.
const repeatEvery = time.Minute

// zapLogger passes etcd's warnings and errors on to log.
func zapLogger(log *slog.Logger) *zap.Logger {
	return zap.New(zapcore.NewSamplerWithOptions(slogCore{log.With("component", "etcd")}, repeatEvery, 1, 0))
}

// expected are warnings that every start and every end of the embedded etcd gives and
// that say nothing here: nobody but this process and other members reaches it, a new
// store has no version yet, and a member that is closed serves others no longer.
var expected = map[string]bool{
	"Running http and grpc server on single port. This is not recommended for production.": true,
	"simple token is not cryptographically signed":                                         true,
	"Failed to detect schema version":                                                      true,
	"failed to update storage version":                                                     true,
	"setting up serving from embedded etcd failed.":                                        true,
}

// earlyCampaign is what a member says whose election timer is faster than its disk: it
// tries again.
var earlyCampaign = regexp.MustCompile(`^[0-9a-f]+ cannot campaign at term \d+ since there are still pending configuration changes`)

// slogCore is a zapcore.Core that writes to slog. etcd is talkative: what it
// says below a warning is of use to its developers only.
type slogCore struct{ log *slog.Logger }

func (slogCore) Enabled(level zapcore.Level) bool { return level >= zapcore.WarnLevel }

func (c slogCore) With(fields []zapcore.Field) zapcore.Core {
	return slogCore{c.log.With(attributes(fields)...)}
}

func (c slogCore) Check(entry zapcore.Entry, checked *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(entry.Level) {
		return checked.AddCore(entry, c)
	}
	return checked
}

func (c slogCore) Write(entry zapcore.Entry, fields []zapcore.Field) error {
	level := slog.LevelWarn
	switch {
	case expected[entry.Message], earlyCampaign.MatchString(entry.Message):
		level = slog.LevelDebug
	case entry.Level > zapcore.WarnLevel:
		level = slog.LevelError
	}
	c.log.Log(context.Background(), level, entry.Message, attributes(fields)...)
	return nil
}

func (slogCore) Sync() error { return nil }

func attributes(fields []zapcore.Field) []any {
	encoder := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(encoder)
	}
	attrs := make([]any, 0, len(encoder.Fields))
	for _, f := range fields {
		if v, ok := encoder.Fields[f.Key]; ok {
			attrs = append(attrs, slog.Any(f.Key, v))
		}
	}
	return attrs
}
