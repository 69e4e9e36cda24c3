// A web server that needs a module.
package main

import (
	"fmt"
	"net/http"
	"os"

	"example.org/greet"
)

const page = "PAGE"

func main() {
	http.HandleFunc("/", func(answer http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(answer, greet.From("Go"), page)
	})
	if err := http.ListenAndServe(":"+os.Getenv("PORT"), nil); err != nil {
		panic(err)
	}
}
