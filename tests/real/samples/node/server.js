// A web server that needs a package, and a file that was made when it was built.
const { createServer } = require("http");
const { readFileSync } = require("fs");
const greet = require("greet");

const page = "PAGE";

createServer((_, answer) => {
  answer.end(`${greet.from("Node.js")} ${page} ${readFileSync("built.txt")}\n`);
}).listen(process.env.PORT);
