package job

import (
	"cmp"
	"time"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
)

const (
	// workLimit is how long a task may take that has no time of its own.
	workLimit = 30 * time.Second
	// grace is how long the end of a job may be under way: an edge that lost its session
	// tells it in the next one.
	grace = time.Minute
)

// Limit is how long after its beginning a job is given up.
func Limit(j *swanherdv1.Job) time.Duration {
	limit := workLimit
	switch task := j.GetTask().(type) {
	case *swanherdv1.Job_Ping:
		interval := time.Second
		if task.Ping.GetInterval() != nil {
			interval = task.Ping.GetInterval().AsDuration()
		}
		limit += time.Duration(cmp.Or(task.Ping.GetCount(), 5)) * interval
	case *swanherdv1.Job_Capture:
		limit += task.Capture.GetDuration().AsDuration()
	}
	return limit + grace
}
