const greet = require("greet");

module.exports = () => `${greet.from("Next.js")} PAGE`;
