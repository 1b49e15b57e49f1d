// Package job keeps what edges do once for operators: it takes in how jobs end, gives
// up those of which nothing is heard, and forgets them. A job is in the store from its
// beginning, so that its end may come to another replica than the one that began it.
// What it brings besides its result is sealed, since it may show what users sent.
package job
