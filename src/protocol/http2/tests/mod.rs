mod farewell;
mod frames;
mod random;
mod refusal;
mod script;
mod streams;
